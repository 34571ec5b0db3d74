"""Tests of what redisaq gives to the tests of others: the pytest plugin and the kits."""
