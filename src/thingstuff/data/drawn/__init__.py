"""What annotation tools draw: overlapping pieces with names, which become one id map for each picture."""
