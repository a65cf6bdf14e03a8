"""Recipes: read strictly, explain, check, and run step by step."""
