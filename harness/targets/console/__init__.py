"""A board's serial console: read, kept with times, and understood.

with ConsoleWatch("rpi5-lab", target.console, log) as watch:
    outcome = watch.await_boot(180)
    print(outcome.sentence)
"""
