# What the recovery flows may do. Every other path is refused.

# Client secrets and their rotation labels, by check-and-set.
path "secret/data/apps/+" {
  capabilities = ["create", "read", "update"]
}

# Tokens that our own apps hold for people, to be revoked one by one.
path "secret/data/app-tokens/+" {
  capabilities = ["read"]
}

path "secret/data/recovery/enrollment-signing-key" {
  capabilities = ["read"]
}

# Signs banners and mails; another key than that of the links.
path "secret/data/recovery/notice-signing-key" {
  capabilities = ["read"]
}

path "secret/data/recovery/platform-admin" {
  capabilities = ["read"]
}

path "secret/data/recovery/probe-accounts" {
  capabilities = ["read"]
}

# Checks an approver's code. Reading this path would make one, so that is not allowed.
path "totp/code/+" {
  capabilities = ["update"]
}

# Signs checkpoints of the audit log; the keys stay in Vault.
path "transit/sign/recovery-*" {
  capabilities = ["update"]
}

path "transit/keys/recovery-*" {
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
