"""Who is here and who gets what: connections, rooms, filters, fan-out."""
