from bench.cloud import main

main()
