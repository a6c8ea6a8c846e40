#!/bin/sh
# Run once by PostgreSQL's image on an empty cluster: the databases and roles of docs/systems.md,
# with the passwords of the mounted secrets. They reach psql by its environment, never by argv.
set -eu
PREFECT_PASSWORD=$(cat /run/secrets/postgres-prefect)
RECOVERY_PASSWORD=$(cat /run/secrets/postgres-recovery)
PORTAL_PASSWORD=$(cat /run/secrets/postgres-portal)
export PREFECT_PASSWORD RECOVERY_PASSWORD PORTAL_PASSWORD
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv prefect_password PREFECT_PASSWORD
\getenv recovery_password RECOVERY_PASSWORD
\getenv portal_password PORTAL_PASSWORD
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE recovery LOGIN PASSWORD :'recovery_password';
CREATE ROLE recovery_portal LOGIN PASSWORD :'portal_password';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE ledger OWNER recovery;
REVOKE CONNECT ON DATABASE ledger, prefect FROM PUBLIC;
GRANT CONNECT ON DATABASE ledger TO recovery_portal;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
\connect ledger
ALTER DEFAULT PRIVILEGES FOR ROLE recovery
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO recovery_portal;
ALTER DEFAULT PRIVILEGES FOR ROLE recovery GRANT USAGE ON SEQUENCES TO recovery_portal;
SQL
