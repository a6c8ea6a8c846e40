"""Names, addresses and numbers that belong to nobody, and the ways in which real ones are dirty.

Addresses use the domains that RFC 2606 reserves. Numbers come from ranges kept free for fiction:
555-0100 to 555-0199 in the United States, those set aside by the German and Swedish regulators.
(The British ones, +44 7700 900xxx, are left out: number libraries hold them for invalid.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

_GIVEN_NAMES = (
    "alva amara ana anton aria bela bo carla chidi dana daria dev eli ema esra fadi femi finn "
    "gita gus hana hugo ida ilya ines ivo jaya joao juno kai kavi kira lars leila lin liv luca "
    "maja malik mara mei milo nadia nils nora odin olga omar pia priya quinn rafa remi rosa "
    "sami sara sol suki tara teo tomas uma vera vik wen xenia yara yusuf zana zoe"
)
_FAMILY_NAMES = (
    "adeyemi albrecht banerjee bauer becker berg bianchi brandt castro cohen costa dahl diaz "
    "duarte eriksen farah ferrari fischer garcia grant haddad hansen hoffman ibarra ito jansen "
    "jensen kaya keller khan kim klein kovac kowal lang larsen levi lopez malik mancini marin "
    "meyer mori moreau nagy novak okafor olsen park patel peeters petrov pinto popov ramos "
    "reyes rossi ruiz sato schmid silva singh sousa stone tanaka torres vargas vogel weber wolf"
)
_DOMAINS = ("example.com", "example.org", "example.net", "mail.example", "post.example")
_BRAND_NAMES = (
    "arcadia aurora bluepeak bramble cascade cobalt ember fjord granite harbor juniper kestrel "
    "lumen meridian nimbus orchard pinnacle quartz"
)
_AREA_CODES = """
201 202 203 205 206 207 208 209 210 212 213 214 215 216 217 218 219 220 223 224 225 227
228 229 231 234 235 239 240 248 251 252 253 254 256 260 262 267 269 270 272 274 276 279
281 283 301 302 303 304 305 307 308 309 310 312 313 314 315 316 317 318 319 320 321 323
324 325 326 327 329 330 331 332 334 336 337 339 341 346 347 350 351 352 353 360 361 363
364 369 380 385 386 401 402 404 405 406 407 408 409 410 412 413 414 415 417 419 423 424
425 430 432 434 435 440 442 443 445 447 448 458 463 464 469 470 472 475 478 479 480 484
501 502 503 504 505 507 508 509 510 512 513 515 516 517 518 520 530 531 534 539 540 541
551 557 559 561 562 563 564 567 570 571 572 573 574 575 580 582 585 586 601 602 603 605
606 607 608 609 610 612 614 615 616 617 618 619 620 623 626 628 629 630 631 636 640 641
645 646 650 651 656 657 659 660 661 662 667 669 678 680 681 682 686 689 701 702 703 704
"""
_LOCALES = ("en", "en", "en", "en", "en", "en", "en", "de", "fr", "sv", "es", "pt-BR")

_MALFORMED_EMAILS = ("{}@@example.com", "{}.example.com", "{}@", "{} @example.com", "@example.com")
_MALFORMED_PHONES = ("555-01", "+1 (212) 555-01XX", "n/a", "+999 12", "00000000")


@dataclass(frozen=True, slots=True)
class Contact:
    """How one person is known and reached."""

    handle: str
    email: str
    phone: str
    locale: str


def phone_numbers(rng: Random) -> Iterator[str]:
    """All fictional numbers in the order of this seed, E.164; starts again after the last one."""
    numbers = [f"+1{area}555{line:04}" for area in _AREA_CODES.split() for line in range(100, 200)]
    numbers += [f"+49176040690{line:02}" for line in range(100)]
    numbers += [f"+46701740{line}" for line in range(605, 700)]
    rng.shuffle(numbers)
    while True:
        yield from numbers


def people(rng: Random, numbers: Iterator[str]) -> Iterator[Contact]:
    """Endless different people: handle and mailbox are theirs alone."""
    given_names, family_names = _GIVEN_NAMES.split(), _FAMILY_NAMES.split()
    serial = 0
    while True:
        serial += 1
        given, family = rng.choice(given_names), rng.choice(family_names)
        yield Contact(
            handle=f"{given}{family}{serial}",
            email=f"{given}.{family}.{serial}@{rng.choice(_DOMAINS)}",
            phone=next(numbers),
            locale=rng.choice(_LOCALES),
        )


def brands(rng: Random, numbers: Iterator[str]) -> Iterator[Contact]:
    """Endless different brand accounts, each with its team's mailbox."""
    names = _BRAND_NAMES.split()
    rng.shuffle(names)
    serial = 0
    while True:
        serial += 1
        name = f"{names[(serial - 1) % len(names)]}{serial}"
        yield Contact(f"{name}official", f"social@{name}.example", next(numbers), "en")


def malformed_email(handle: str, variant: int) -> str:
    return _MALFORMED_EMAILS[variant % len(_MALFORMED_EMAILS)].format(handle)


def malformed_phone(variant: int) -> str:
    return _MALFORMED_PHONES[variant % len(_MALFORMED_PHONES)]
