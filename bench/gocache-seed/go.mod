module windlass.test/gocache-seed

go 1.24
