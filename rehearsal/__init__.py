"""The rehearsal: real servers, people, an attacker and faults, to run recoveries against."""
