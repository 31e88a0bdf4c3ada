"""What evaluate is made of: its data, its cache, the measuring, and what is published."""
