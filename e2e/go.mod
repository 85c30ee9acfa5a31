module github.com/twotier/twotier/e2e

go 1.26
