"""`redisaq demo`: a whole group of processes at work, one of them killed, and a count that must come out even."""
