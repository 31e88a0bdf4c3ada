"""What a delta is made of, and the page that shows it beside what was measured."""
