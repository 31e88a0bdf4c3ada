"""What the pipeline does: one public function for each command."""
