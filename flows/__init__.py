"""WHEN. Order, waves, gates, approvals. No HTTP, no SQL, no parsing."""
