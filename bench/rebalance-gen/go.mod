module rebalance-gen

go 1.22
