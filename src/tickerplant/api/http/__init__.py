"""What all REST routes share: parameters, encodings of answers, errors and authentication."""
