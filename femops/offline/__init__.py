"""What happens before a case runs: an RVE or a family is sampled, a surrogate is trained and judged."""
