"""Everything is killed, stopped, cut off and lied to while servers come and go; at the end reality equals the database."""
