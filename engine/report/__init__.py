"""A deletion as one HTML page that needs nothing else: no network, no script.

`facts` reads the journal, `page` puts the sections together, and only `markup` makes
HTML of text.
"""
