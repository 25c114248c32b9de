"""What a person reads: pages, and the drawings and sheets of pictures on them."""
