# What the recovery flows may do. Every other path is refused.

# Client secrets and their rotation labels, by check-and-set. Nothing is ever deleted or destroyed.
path "secret/data/apps/+" {
  capabilities = ["create", "read", "update"]
}

# Which clients have an entry; who owns and reads it, when it was written, and how many versions are
# kept: on the path, then its mount.
path "secret/metadata/apps" {
  capabilities = ["list"]
}

path "secret/metadata/apps/+" {
  capabilities = ["read"]
}

path "secret/config" {
  capabilities = ["read"]
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

# The platform's credential, made for one phase: one that may act, one that may only read.
path "platform/creds/recovery-admin" {
  capabilities = ["read"]
}

path "platform/creds/recovery-reader" {
  capabilities = ["read"]
}

# Only leases of that engine may be renewed and revoked.
path "sys/leases/renew" {
  capabilities       = ["update"]
  allowed_parameters = {
    "lease_id"  = ["platform/creds/*"]
    "increment" = []
  }
}

path "sys/leases/revoke" {
  capabilities       = ["update"]
  allowed_parameters = {
    "lease_id" = ["platform/creds/*"]
    "sync"     = []
  }
}

# Tells a dead login from a missing permission.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Gives the login back at the end, and with it what was leased by it.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
