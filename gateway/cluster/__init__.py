"""Many nodes as one: who is where, and what is asked of all of them."""
