// Asks the device for a passkey and puts what it made into an ordinary form, so that the next page
// and its errors are the server's. What goes wrong before that is told here, in sentences that the
// page brought along.
"use strict";
(function () {
  const form = document.getElementById("passkey");
  const start = document.getElementById("start");
  const says = document.getElementById("says");
  const wait = document.getElementById("wait");

  function tell(what) {
    wait.hidden = true;
    start.disabled = false;
    says.textContent = says.dataset[what];
    says.hidden = false;
    says.focus();
  }

  function bytes(text) {
    const plain = window.atob(text.replace(/-/g, "+").replace(/_/g, "/"));
    return Uint8Array.from(plain, function (c) { return c.charCodeAt(0); });
  }

  function text(buffer) {
    const plain = String.fromCharCode.apply(null, new Uint8Array(buffer));
    return window.btoa(plain).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  }

  async function options() {
    const answer = await fetch(form.dataset.options, {
      method: "POST",
      body: new URLSearchParams({ csrf: form.elements.csrf.value }),
      credentials: "same-origin",
      redirect: "error",
    });
    if (!answer.ok) {
      throw answer.status;
    }
    const given = await answer.json();
    given.challenge = bytes(given.challenge);
    given.user.id = bytes(given.user.id);
    (given.excludeCredentials || []).forEach(function (one) { one.id = bytes(one.id); });
    return given;
  }

  function plain(made) {
    const response = made.response;
    return {
      id: made.id,
      rawId: text(made.rawId),
      type: made.type,
      authenticatorAttachment: made.authenticatorAttachment || undefined,
      clientExtensionResults: {},
      response: {
        clientDataJSON: text(response.clientDataJSON),
        attestationObject: text(response.attestationObject),
        transports: response.getTransports ? response.getTransports() : [],
      },
    };
  }

  function problem(error) {
    switch (error) {
      case 403:
        return "address";
      case 429:
        return "many";
    }
    switch (error && error.name) {
      case "NotAllowedError":
      case "AbortError":
        return "cancelled";
      case "InvalidStateError":
        return "exists";
      case "NotSupportedError":
      case "ConstraintError":
        return "unfit";
      case "SecurityError":
        return "address";
      default:
        return "busy";
    }
  }

  async function make() {
    start.disabled = true;
    says.hidden = true;
    wait.hidden = false;
    try {
      const made = await navigator.credentials.create({ publicKey: await options() });
      form.elements.credential.value = JSON.stringify(plain(made));
      form.submit();
    } catch (error) {
      if (error === 400 || error === 409) {
        // The session is over or further on: the server has the page for it.
        window.location.reload();
        return;
      }
      tell(problem(error));
    }
  }

  document.getElementById("scriptless").hidden = true;
  if (!window.PublicKeyCredential || !navigator.credentials || !navigator.credentials.create) {
    says.textContent = says.dataset.unsupported;
    says.hidden = false;
    return;
  }
  start.hidden = false;
  start.addEventListener("click", make);
  window.addEventListener("pageshow", function (event) {
    if (event.persisted) {
      start.disabled = false;
      wait.hidden = true;
    }
  });
})();
