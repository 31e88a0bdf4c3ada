"""The page that shows evidence: what was reported comes in as plain data, HTML goes out."""
