# For whatever renders the portal's configuration file. The portal itself has no policy, because it
# never talks to Vault; the private signing key of links is not for it either.

# The platform token that may only list and add an account's authenticators.
path "secret/data/recovery/platform-bind" {
  capabilities = ["read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# Gives the login back at the end.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
