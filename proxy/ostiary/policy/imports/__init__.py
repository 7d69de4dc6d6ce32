"""What other formats say about services, as endpoints of the permission map."""
