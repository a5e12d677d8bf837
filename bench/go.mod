module github.com/napkin-kit/napkin/bench

go 1.26.0

replace github.com/napkin-kit/napkin => ../

require (
	github.com/cenkalti/backoff/v4 v4.3.0
	github.com/napkin-kit/napkin v0.0.0
	github.com/sony/gobreaker/v2 v2.4.0
	golang.org/x/sync v0.24.0
)

require (
	github.com/stretchr/testify v1.12.1 // indirect
	golang.org/x/time v0.16.0 // indirect
)
