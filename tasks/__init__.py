"""DO. One batch, or one secret, per task run; retries, limits and timeouts are declared here."""
