"""What holds rows on disk: files, packed or not, folders, archives, spreadsheets. Knows no row's meaning."""
