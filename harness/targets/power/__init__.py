"""A board's power, switched by commands of this host, a virtual machine's monitor, labgrid, or a plug-in.

power = open_power(target, log=None)
power.cycle()
print(power.status().state)
"""
