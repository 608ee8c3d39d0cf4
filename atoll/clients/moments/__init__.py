"""Linear moments: sums over a client's examples, from which a server can align domains.

A moment is a mean over examples of a function phi(x, y; theta). A server that has a penalty P over
the moments m_e of domains sends back the cotangents dP/dm_e; a client whose loss has the term
<dP/dm_e, m_e(theta)> then has the gradient of P, exactly, whatever P is (the chain rule).
"""
