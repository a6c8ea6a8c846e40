# What `python -m flows.signing_key` may do: change the keys that sign enrollment links. Not the flows'
# own role: who composes messages need not be able to put another key in place.

path "secret/data/recovery/enrollment-signing-key" {
  capabilities = ["create", "read", "update"]
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
