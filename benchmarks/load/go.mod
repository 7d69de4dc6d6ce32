module ostiary/benchmarks/load

go 1.22
