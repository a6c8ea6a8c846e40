# For an approver who makes their own key for one-time codes, once, logged in by your directory
# (auth method oidc or jwt). Put the accessor of that auth method (`vault auth list`) in place of
# AUTH_ACCESSOR: the key is then named as the person is there, and nobody can make another one's.
#
# Vault can't tell a first key from its replacement: attach this for the day of enrolment alone.
# Making codes (reading totp/code/...) and reading keys is not granted.

path "totp/keys/{{identity.entity.aliases.AUTH_ACCESSOR.name}}" {
  capabilities = ["update"]
}
