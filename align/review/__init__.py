"""The review app: people compare answers in a browser, and their ratings become the next dataset artifact."""
