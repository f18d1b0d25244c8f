"""What ``engine assets`` and ``engine clients`` write or print: dashboards, settings of clients."""
