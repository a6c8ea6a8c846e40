# What one app instance may do: read its own client's secret. CLIENT_ID is filled in per client.

path "secret/data/apps/CLIENT_ID" {
  capabilities = ["read"]
}
