# For the job that gives the worker a new secret id, and hands secrets over to people. It can't log
# in as the worker: a secret id leaves Vault wrapped, for the first who asks within five minutes.

path "auth/approle/role/recovery-flows/role-id" {
  capabilities = ["read"]
}

path "auth/approle/role/recovery-flows/secret-id" {
  capabilities     = ["update"]
  min_wrapping_ttl = "1s"
  max_wrapping_ttl = "5m"
}

# Hand-overs: wraps what the job itself was given.
path "sys/wrapping/wrap" {
  capabilities = ["update"]
}

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
