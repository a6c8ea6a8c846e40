# What renders the enrollment portal's configuration may do; the portal itself never asks Vault. The
# private key that signs links is not among it: the portal needs its public half alone.

# The platform token that may only list and add an account's authenticators.
path "secret/data/recovery/platform-bind" {
  capabilities = ["read"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Gives the login back at the end.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
