"""The control worker: plan, schedule, finish, repair, clean up."""
