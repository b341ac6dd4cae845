from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("instruments", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="instrument",
            name="cas_eligible",
            field=models.BooleanField(default=False, help_text="Takes part in the closing auction: its trading ends before its segment's."),
        ),
    ]
