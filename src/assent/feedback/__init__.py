"""People's preferences: the store that keeps them, and the web app that collects them."""
