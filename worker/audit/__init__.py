"""`jobspec audit`: whether a killed and resumed training gives the same bits as an undisturbed
one."""
