"""What travels over HTTP: the route table as data, the bodies of every route, envelopes and the error table."""
