"""Models of a malicious server, which make updates give examples away."""
