"""The wire: one class per outside system. JSON turns into our types here and only here."""
