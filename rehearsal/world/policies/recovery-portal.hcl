# What the enrollment portal may do: read its own two keys. No approver's code, no client secret.

path "secret/data/recovery/enrollment-signing-key" {
  capabilities = ["read"]
}

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
