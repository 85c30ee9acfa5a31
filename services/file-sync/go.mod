module github.com/twotier/twotier/services/file-sync

go 1.26
