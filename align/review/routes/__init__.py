"""Routes, a file a reader: visitors, raters, admins, machines."""
