"""How often the guards of training runs end runs that are well, and how soon those that are not."""
