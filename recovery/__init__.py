"""What is true: frozen types and pure functions. Imports nothing of ours and no Prefect."""
