"""Programs that run on a board under its own Python, before anything of ours is installed there: plain and small.

They are sent as text, import the standard library only, and answer in lines of JSON.
"""
