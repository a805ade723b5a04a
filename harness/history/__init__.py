"""History: nights of a plan as series, steps in them with their causes, alarms, and the page that tells of them."""
